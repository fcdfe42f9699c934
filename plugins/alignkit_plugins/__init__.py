"""The methods, judges and data sets that come with alignkit; one thing a file, found like any third party's."""
